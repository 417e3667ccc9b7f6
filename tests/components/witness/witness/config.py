"""The section [witness]."""

from typing import Annotated

from pydantic import Field, PlainValidator

from balancer.config.model import Section
from balancer.config.values import whole


class Witness(Section):
    """What the witness shall say."""

    number: Annotated[int, PlainValidator(whole(0, 100))] = Field(default=7, description="Any number.")
