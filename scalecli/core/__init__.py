"""What the three commands share: errors, configs, results, tables, statistics, engines."""
