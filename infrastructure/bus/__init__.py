"""The message bus, NATS JetStream."""
