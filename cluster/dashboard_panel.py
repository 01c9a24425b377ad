"""What a panel of a dashboard is."""

Panel = tuple[str, str, list[tuple[str, str]]]
"""Title, Grafana's unit, and queries: (legend, PromQL)."""
