"""GET /features/<user_id>: the newest published features of a user, read from schema `online`."""

# Before Feast, which would make it keep every number in a file of a folder that Feast chooses.
import prometheus_client  # noqa: F401
