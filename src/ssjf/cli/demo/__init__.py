"""`ssjf demo`: what shortest-predicted-job-first gains over first-come-first-served, measured on this machine."""

from ssjf.cli.demo.command import demo

__all__ = ["demo"]
