"""What a sweep ends with: functions from its folder and a metric to tables and figures in it, and
an exit code."""
