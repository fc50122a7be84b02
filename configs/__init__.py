"""One YAML an experiment, and the schema that every config is checked against."""
