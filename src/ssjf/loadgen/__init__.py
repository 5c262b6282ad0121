"""Sends workloads to OpenAI-compatible servers and writes down what happened to each request.

`plan` says what is sent and when, `client` sends one request, `sender` sends them all. Nothing here knows how a
server orders its work.
"""
