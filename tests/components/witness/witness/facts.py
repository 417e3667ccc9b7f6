"""What admin and `ns7 doctor` show of the witness."""

from prometheus_client.core import CounterMetricFamily

from balancer.component import Check, Finding


def status(snapshot):
    """Its part of the status."""
    return {"says": snapshot.get("number")}


def metrics(snapshot):
    """Its metrics."""
    yield CounterMetricFamily("ns7_witness_asked", "Requests answered.", value=snapshot.get("asked", 0))


def judge(number):
    """Its findings."""
    if number == 13:
        yield Finding("the witness's number is 13", "Thirteen is no number for a witness.", "sed -i s/13/12/ ns7.toml")


CHECKS = (Check("number", lambda site: getattr(site.config, "number", None), judge),)
