"""From a ladder of proxies to the large run: target, recommendation, certificate, export."""
