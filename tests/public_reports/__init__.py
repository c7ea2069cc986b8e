"""One small test for each report of another project, named by its tracker and number."""
