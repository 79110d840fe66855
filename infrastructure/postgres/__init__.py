"""PostgreSQL: connections, the event log, leaders and the schema."""
