"""Property tests on slow or shared machines: no deadline, no complaint about a cold start."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "scalecli", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("scalecli")
