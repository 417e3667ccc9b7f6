"""A component that fails wherever it can; the section says where."""

from balancer.component import Component

COMPONENT = Component("crasher", config="crasher.config:Crasher", main="crasher.runner:main", spare=True)
