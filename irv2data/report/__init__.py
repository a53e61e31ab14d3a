"""Pictures and pages that a person looks at."""

from irv2data.report.contact_sheet import contact_sheet

__all__ = ["contact_sheet"]
