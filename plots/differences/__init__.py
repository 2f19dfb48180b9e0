"""Compare graphs: align their calls, find the differences, report and draw them."""
