"""Pictures and tables for people: one run, one plan, several videos side by side."""

from .plan_picture import plan_picture
from .sheets import amplified_error, contact_sheet, side_by_side
from .tables import comparison_table, plan_text
from .trace_picture import trace_picture

__all__ = ["amplified_error", "comparison_table", "contact_sheet", "plan_picture", "plan_text", "side_by_side",
           "trace_picture"]
