"""The tables: customers, their bills, the usage on them, and who may report it."""

from usage.models.api_key import ApiKey
from usage.models.base import Frozen
from usage.models.bill import Bill, Line
from usage.models.change import Change, NewValue
from usage.models.command_run import CommandRun
from usage.models.customer import Customer
from usage.models.daily_usage import DailyUsage
from usage.models.history import HistoryEntry
from usage.models.hold import Hold
from usage.models.past_days import PastDays
from usage.models.time_zone import BillingTimeZone, OtherTimeZone
from usage.models.traffic import Counts, Refusal, RefusalNote, Traffic
from usage.models.usage_check import AcceptedDuplicates, PossibleDuplicates, UsageCheck
from usage.models.usage_record import UsageRecord

__all__ = [
    "AcceptedDuplicates",
    "ApiKey",
    "Bill",
    "BillingTimeZone",
    "Change",
    "CommandRun",
    "Counts",
    "Customer",
    "DailyUsage",
    "Frozen",
    "HistoryEntry",
    "Hold",
    "Line",
    "NewValue",
    "OtherTimeZone",
    "PastDays",
    "PossibleDuplicates",
    "Refusal",
    "RefusalNote",
    "Traffic",
    "UsageCheck",
    "UsageRecord",
]
