"""What staff see: Django's admin, read-only unless said otherwise; its actions call the models.

No page counts records, pages by OFFSET or lists them inline, so none grows slow with them.
"""

from usage.admin import api_keys, bills, customers, locks, records

__all__ = ["api_keys", "bills", "customers", "locks", "records"]
