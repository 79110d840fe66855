"""The Kubernetes launcher, which runs each segment as a Job of a cluster."""
