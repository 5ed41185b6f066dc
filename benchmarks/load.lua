-- The requests of wrk: new records, or (replays) those that it has sent just now.
-- Arguments: name=… (of this load, in every id), key=… (the whole Authorization), size=… (records a request; 0: not an array),
-- customers=…, replays=… (every request is one of this many earlier ones), mix=… (one in so many is).

local SERVICES = {
  {"Database Hosting", "0.05"}, {"Load Balancer", "0.03"}, {"Linux Instance", "0.15"},
  {"CDN Storage", "0.02"}, {"Domain Name Registration", "14.99"}, {"Object Storage", "0.023"},
  {"GPU Instance", "2.48"}, {"Outgoing Traffic", "0.000087"},
}

local threads = {}
sent, created, replayed, other = 0, 0, 0, 0 -- requests; records by their answers

function setup(thread)
  threads[#threads + 1] = thread
end

-- Spread over 32 bits without a collision (xorshift), so that ids come in no order, like uuid4.
local function spread(number)
  number = bit.bxor(number, bit.lshift(number, 13))
  number = bit.bxor(number, bit.rshift(number, 17))
  return bit.bxor(number, bit.lshift(number, 5))
end

local function pick(number, choices)
  return bit.band(spread(number), 0x7fffffff) % choices + 1
end

local function record(number)
  local service = SERVICES[pick(number + 104729, #SERVICES)]
  return string.format(
    '{"request_id": "%s%s-%s-%d", "customer_id": %d, "service": "%s", "units_consumed": %d, "price_per_unit": "%s"}',
    bit.tohex(spread(number)), bit.tohex(spread(number + 7919)), load.name, number,
    pick(number, load.customers), service[1], number % 97 + 1, service[2])
end

local function body(number)
  if load.size == 0 then return record(number) end
  local records = {}
  for place = 1, load.size do records[place] = record(number * load.size + place) end
  return "[" .. table.concat(records, ", ") .. "]"
end

function init(arguments)
  load = {name = "?", key = "none", size = 0, customers = 1000, replays = 0, mix = 0}
  for _, argument in ipairs(arguments) do
    local option, value = argument:match("^(%w+)=(.*)$")
    -- A name such as 7e1230 would be a number too, an infinite one.
    load[option] = type(load[option]) == "number" and tonumber(value) or value
  end
  head = "POST " .. wrk.path .. " HTTP/1.1\r\nHost: " .. wrk.host
    .. "\r\nAuthorization: " .. load.key
    .. "\r\nContent-Type: application/json\r\nContent-Length: "
  asked = 0
end

function request()
  local number
  asked = asked + 1
  if load.replays > 0 then
    number = asked % load.replays + 2 -- wrk asks for the first one of a load and does not send it
  elseif load.mix > 0 and asked % load.mix == 0 and sent > 64 then
    number = sent - 63 -- answered by now: fewer are under way
  else
    sent = sent + 1
    number = sent
  end
  local content = body(number)
  return head .. #content .. "\r\n\r\n" .. content
end

function response(status, headers, body)
  local records = math.max(1, load.size)
  if status == 201 then
    created = created + records
  elseif status == 200 then
    replayed = replayed + records
  elseif status == 207 then
    local new, old, rejected = body:sub(-90):match('"created": (%d+), "replayed": (%d+), "rejected": (%d+)')
    created, replayed, other = created + new, replayed + old, other + rejected
  else
    other = other + records
  end
end

function done(summary, latency, requests)
  local sum = {sent = 0, created = 0, replayed = 0, other = 0}
  for _, thread in ipairs(threads) do
    for name, value in pairs(sum) do sum[name] = value + thread:get(name) end
  end
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"sent": %d, "created": %d, "replayed": %d, "other": %d, "broken": %d, "seconds": %.6f, "p50": %.6f, "p95": %.6f, "p99": %.6f}\n',
    sum.sent, sum.created, sum.replayed, sum.other,
    errors.connect + errors.read + errors.write + errors.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e6, latency:percentile(95) / 1e6, latency:percentile(99) / 1e6))
end
