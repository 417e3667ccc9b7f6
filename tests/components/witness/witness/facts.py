"""What admin and `ns7 doctor` show of the witness."""

from prometheus_client.core import CounterMetricFamily

from balancer.component import Finding


def status(snapshot):
    """Its part of the status."""
    return {"says": snapshot.get("number")}


def metrics(snapshot):
    """Its metrics."""
    yield CounterMetricFamily("ns7_witness_asked", "Requests answered.", value=snapshot.get("asked", 0))


def doctor(config):
    """Its findings."""
    if config is not None and config.number == 13:
        yield Finding("the witness's number is 13", "sed -i s/13/12/ ns7.toml")
