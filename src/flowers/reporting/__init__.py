"""Turn results into tables, charts, HTML reports and W&B logs."""
