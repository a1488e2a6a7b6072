"""Pictures and tables for people: one run, one plan, several videos side by side."""

from flowcache_core.report.plan_picture import plan_picture
from flowcache_core.report.sheets import amplified_error, contact_sheet, side_by_side
from flowcache_core.report.tables import comparison_table, plan_text
from flowcache_core.report.trace_picture import trace_picture

__all__ = ["amplified_error", "comparison_table", "contact_sheet", "plan_picture", "plan_text", "side_by_side",
           "trace_picture"]
