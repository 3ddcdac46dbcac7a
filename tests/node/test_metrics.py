"""The histogram of requests is scraped as prometheus_client's own would be."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from node.telemetry.metrics import LATENCY_BUCKETS_S, Metrics


def test_requests_are_counted_as_by_a_histogram_of_the_library() -> None:
    metrics, registry = Metrics(), CollectorRegistry()
    reference = Histogram(
        "strongroom_http_request_duration_seconds",
        "Time to answer a request",
        ["operation", "code"],
        buckets=LATENCY_BUCKETS_S,
        registry=registry,
    )
    for operation, status in (("read", 200), ("update", 204), ("read", 404)):
        for seconds in (0.0, 0.0005, 0.00050001, 0.3, 1.0, 10.0, 11.5):
            metrics.observe(operation, status, seconds)
            reference.labels(operation, str(status)).observe(seconds)
    ours = [line for line in metrics.render().splitlines() if b"http_request_duration" in line]
    theirs = [line for line in generate_latest(registry).splitlines() if b"_created" not in line]
    assert ours == theirs
