"""What Prometheus reads, read back by its own library."""

import threading

from prometheus_client.parser import text_string_to_metric_families

from cli.telemetry.figures import OTHERS, SERIES_MAX, Family, Figures, Measure, family_lines, text

COUNT = Measure("runfold_things_total", "Things.", ("kind", "how"))
LENGTH = Measure("runfold_length_seconds", "How long.", ("kind",), (0.1, 1.0))
PLAIN = Measure("runfold_plain", "Plain.")


def samples(written: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Let the library read it; one sample is there once."""
    found = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in text_string_to_metric_families(written)
        for sample in family.samples
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def test_figures_when_read_by_the_library() -> None:
    """Counters, histograms and gauges come out as they went in, whatever their labels hold."""
    odd = 'a "b"\\\nc'
    figures = Figures()
    figures.count(COUNT, (odd, "x"))
    figures.count(COUNT, (odd, "x"), by=2)
    figures.count(COUNT, ("b", "y"))
    for value in (0.1, 0.5, 7.0):
        figures.observe(LENGTH, ("a",), value)

    found = samples(text(figures.lines(), family_lines(Family(PLAIN, "gauge", {(): 12_345_678_901}))))

    assert {
        ("runfold_things_total", (("how", "x"), ("kind", odd))): 3.0,
        ("runfold_things_total", (("how", "y"), ("kind", "b"))): 1.0,
        ("runfold_length_seconds_bucket", (("kind", "a"), ("le", "0.1"))): 1.0,
        ("runfold_length_seconds_bucket", (("kind", "a"), ("le", "1"))): 2.0,
        ("runfold_length_seconds_bucket", (("kind", "a"), ("le", "+Inf"))): 3.0,
        ("runfold_length_seconds_sum", (("kind", "a"),)): 7.6,
        ("runfold_length_seconds_count", (("kind", "a"),)): 3.0,
        ("runfold_plain", ()): 12_345_678_901.0,
    } == found


def test_figures_when_there_are_too_many_series() -> None:
    """What is beyond the limit is counted together, in counters, histograms and gauges alike."""
    figures = Figures()
    for number in range(SERIES_MAX + 2):
        figures.count(COUNT, (f"{number:04}", "x"))
        figures.observe(LENGTH, (f"{number:04}",), 0.2)
    many = Family(
        Measure("runfold_many", "Many.", ("kind",)), "gauge", {(f"{n:04}",): 1 for n in range(SERIES_MAX + 2)}
    )

    found = samples(text(figures.lines(), family_lines(many)))

    assert 2 == found["runfold_things_total", (("how", OTHERS), ("kind", OTHERS))]
    assert 2 == found["runfold_length_seconds_count", (("kind", OTHERS),)]
    assert 2 == found["runfold_many", (("kind", OTHERS),)]
    assert SERIES_MAX + 1 == sum(name == "runfold_things_total" for name, _ in found)
    assert ("runfold_many", (("kind", f"{SERIES_MAX:04}"),)) not in found
    assert 1 == found["runfold_many", (("kind", f"{SERIES_MAX - 1:04}"),)]


def test_figures_when_many_threads_count() -> None:
    """No count is lost."""
    figures = Figures()

    def count() -> None:
        for _ in range(2_000):
            figures.count(COUNT, ("a", "x"))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 8_000 == samples(text(figures.lines()))["runfold_things_total", (("how", "x"), ("kind", "a"))]
