"""What the answers of one probe mean: a result for the state machine, and the serials. Pure."""

from __future__ import annotations

from health.exchange import Exchange
from health.verdict import Result, Severity


def result(exchange: Exchange) -> Result:
    """How a probe ended: the worst that was found. A wrong answer says more than a missing one."""
    latency = exchange.ended - exchange.began if any(exchange.opinions) else None
    for opinion in exchange.opinions:
        if opinion is not None and opinion.reason:
            return Result(opinion.severity, opinion.reason, latency)
    if exchange.complete:
        return Result(latency=latency)
    if exchange.error:
        return Result(Severity.DEAD, exchange.error, latency, refused=exchange.refused)
    unanswered = [question for question, opinion in zip(exchange.questions, exchange.opinions, strict=True)
                  if opinion is None]
    seconds = exchange.deadline - exchange.began
    others = f" ({exchange.foreign} datagrams that answer nothing asked)" if exchange.foreign else ""
    return Result(Severity.DEAD, f"{unanswered[0]}: no answer within {seconds:g} s{others}", latency, silent=True)


def serials(exchange: Exchange) -> dict[str, int]:
    """The serials that were served, by zone."""
    return {question.name: opinion.serial
            for question, opinion in zip(exchange.questions, exchange.opinions, strict=True)
            if opinion is not None and opinion.serial is not None}

