"""The report of a study: one HTML file that needs no network, and tables for papers."""

from functional_models.studies.report.page import REPORT, write_report

__all__ = ["REPORT", "write_report"]
