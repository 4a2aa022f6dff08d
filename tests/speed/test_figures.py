"""Figures of the benchmarks show the ratios of their tables."""

from figures import bench_figure, growth_figure


def test_bench_figures_are_drawn_from_their_tables(tmp_path):
    system = {"speed_up": [3.0, 2.5, 3.5], "computed_tokens": 2.0, "saved": 30, "peak": 40}
    ours = {"speed_up": [1, 1, 1], "computed_tokens": 1.0, "saved": 10, "peak": 20}
    bench_figure({"reward models": {"work": {"ours": ours, "trl": system, "trl_best": system}},
                  "updates": {"8 x 4": {"ours": ours, "trl": system, "trl_best": system}}},
                 tmp_path / "bench.png")
    steps = {name: {"sizes": [1, 2], "seconds": [1.0, 2.0], "peak": [1e9, 2e9],
                    "seconds_exponent": 1.0, "peak_exponent": 1.0} for name in ("a", "b")}
    growth_figure({"steps": steps}, tmp_path / "growth.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("bench.png", "growth.png"))
