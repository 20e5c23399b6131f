"""The tests, which mirror the package."""

from hypothesis import HealthCheck, settings

# How long an example takes says more of the machine, and of who else is on it, than of us.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")
