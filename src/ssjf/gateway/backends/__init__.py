"""The engines behind the gateway."""
