"""The pages of staff: Django's admin, read-only by default; its acts call the ledger.

No page counts records or skips them by OFFSET, so none grows slower with their number.
"""

from usage.admin import accounts, api_keys, bills, customers, records

__all__ = ["accounts", "api_keys", "bills", "customers", "records"]
