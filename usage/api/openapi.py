def describe_usage(view):
    return view
