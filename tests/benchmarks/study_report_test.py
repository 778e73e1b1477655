"""The pages have the figures of the committed lines, and the lines their runs."""

import math
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def lines(module, monkeypatch, tmp_path):
    """A table of CamVid with a line a tuple (row, seed, mIoU, seconds, processor)."""
    plan = module("study.plan")
    monkeypatch.setattr(plan, "LINES", tmp_path)

    def write(*runs, table="camvid"):
        texts = [
            f'{{"row": "{row}", "seed": {seed}, "results": {{"miou": {miou}}}, '
            f'"config": {{}}, "epochs": {{"seconds": {seconds}}}, '
            f'"machine": {{"processor": "{(*processor, "A")[0]}"}}}}\n'
            for row, seed, miou, seconds, *processor in runs
        ]
        (tmp_path / f"{table}.jsonl").write_text("".join(texts))

    return write


def test_the_pages_are_what_the_lines_say(module):
    report = module("study.report")
    pages = [path.read_text() for path in report.PAGES]
    assert list(map(report.rendered, pages)) == pages, "run benchmarks.study.report"
    for name in report.BLOCKS:
        assert f"<!-- {name} -->" in "".join(pages)


def test_a_block_is_replaced_and_prose_stays(module, monkeypatch):
    report = module("study.report")
    monkeypatch.setattr(report, "BLOCKS", {"one": lambda: "new", "two": lambda: "newer"})
    page = "a\n<!-- one -->\n{}<!-- end -->\nb\n<!-- two -->\n{}<!-- end -->\nc\n"
    page, expected = page.format("", "old\nolder\n"), page.format("new\n", "newer\n")
    assert report.rendered(page) == expected
    assert report.rendered(expected) == expected


def test_gains_are_paired_by_seed(module, lines):
    report = module("study.report")
    none = [("none", 0, 20.0, [3, 5, 7]), ("none", 1, 30.0, [3, 5, 7])]
    ours = [("pose, ours", 0, 21.0, [9, 19, 29]), ("pose, ours", 1, 33.0, [9, 19, 29])]
    # The runs that were done first stand last.
    lines(*ours[::-1], *none)
    rows = report.table("camvid").splitlines()
    # Gains 1 and 3: mean 2, deviation sqrt(2), t of one degree of freedom 12.71, and
    # 12.71 * sqrt(2) / sqrt(2) = 12.71. Epochs of 10 s.
    row = "| pose, ours | 21.00 33.00 | 27.00 | 8.49 | +2.00 ± 12.71 | 10 |"
    assert row in rows
    assert "| none | 20.00 30.00 | 25.00 | 7.07 |  | 2 |" in rows
    assert "| VGG16, ours |  |  |  |  |  |" in rows


def test_figures_of_two_machines_are_paired_on_each(module, lines):
    report = module("study.report")
    lines(("none", 0, 20.0, [3, 5]), ("pose, ours", 0, 21.0, [9, 19]))
    there = ("none", 0, 30.0, [1, 2]), ("pose, ours", 0, 33.0, [1, 2])
    lines(*there, ("VGG16, ours", 0, 29.0, [1, 2]), table="camvid_gpu")
    rows = report.table("camvid", also="camvid_gpu").splitlines()
    # Gains 1 here and 3 there; across machines it would be -9 and 13.
    assert "| pose, ours | 21.00 / 33.00 | 27.00 | 8.49 | +2.00 ± 12.71 | 10 |" in rows
    assert "| none | 20.00 / 30.00 | 25.00 | 7.07 |  | 2 |" in rows
    assert "| VGG16, ours |  / 29.00 |  |  |  |  |" in rows


def test_a_cost_is_that_of_all_epochs(module, lines):
    gains = module("study.gains")
    lines(
        ("none", 0, 20.0, [3, 5, 7]),  # epochs of 2 s
        ("pose, ours", 0, 21.0, [9, 19, 29]),
        ("longer", 0, 21.0, [3, 5, 7, 9, 11, 13]),
    )
    assert gains.cost(["camvid"], "pose, ours") == 5
    assert gains.cost(["camvid_gpu", "camvid"], "longer") == 2


def test_times_of_two_processors_are_not_compared(module, lines):
    gains, report = module("study.gains"), module("study.report")
    lines(
        ("none", 0, 20.0, [3, 5, 7], "A"),
        ("pose, ours", 1, 21.0, [3, 6, 9], "B"),
        ("pose, ours", 0, 21.0, [9, 19, 29], "A"),
        ("VGG16, ours", 0, 21.0, [9, 19, 29], "B"),
        ("none", 1, 20.0, [3, 5, 7], "A"),
    )
    assert gains.cost(["camvid"], "pose, ours") == 5
    assert math.isnan(gains.cost(["camvid"], "VGG16, ours"))
    rows = report.table("camvid").splitlines()
    assert "| pose, ours | 21.00 21.00 | 21.00 | 0.00 | +1.00 ± 0.00 | 10 |" in rows
    assert "| VGG16, ours | 21.00 |  |  |  |  |" in rows


def test_epochs_without_hybrid_paths_count_with_their_own_time(module, monkeypatch):
    plan = module("study.plan")
    # Hybrid epochs of 9, 10 and 8 s, plain ones of 3 and 2 s.
    epochs = {"seconds": [9, 19, 27, 30, 32], "balance": [0.0, 1.0, 1.0, None, None]}
    run = {"epochs": epochs, "machine": {"processor": "A"}}
    monkeypatch.setattr(plan, "read", lambda table: {("row", 0): run})
    assert plan.epoch_seconds("camvid", "row") == (3 * 8 + 2 * 2) / 5


def test_columns_of_epochs_with_and_without_hybrid_paths(module, tmp_path):
    run, path = module("study.run"), tmp_path / "metrics.csv"
    path.write_text("epoch,balance,loss\n0,0.0,1.234567\n1,,2\n")
    assert run.in_five_digits(run.columns(path)) == {
        "epoch": [0, 1],
        "balance": [0, None],
        "loss": [1.2346, 2],
    }


def test_situations_have_rows_of_their_tables(module):
    tables = module("study.tables").TABLES
    for situation in module("study.gains").SITUATIONS:
        for name in situation.tables:
            assert set(situation.rows.values()) <= tables[name].rows().keys()


def test_a_weight_is_chosen_once_all_were_tried(module, monkeypatch):
    plan, tables = module("study.plan"), module("study.tables").TABLES
    rows = tables["people_weights"].rows()
    at = [row for row in rows if row.startswith("at ")]
    figures = {row: [60.0] for row in at} | {at[1]: [59.0]}
    monkeypatch.setattr(plan, "results", lambda table: figures)
    # Of miss rates the lowest.
    assert plan.best_value(tables["people_weights"], "at") == float(at[1].split()[1])
    assert "at" in tables["people"].rows()
    del figures[at[0]]
    assert plan.best_value(tables["people_weights"], "at") is None
    assert "at" not in tables["people"].rows()


def test_rows_of_a_case_wait_for_its_rates_and_weights(module, monkeypatch):
    plan, cases, run = module("study.plan"), module("study.cases"), module("study.run")
    monkeypatch.setattr(plan, "read", lambda table: {})
    assert [bool(t.rows()) for case in cases.CASES for t in case.tables] == [
        *(True, False, False) * len(cases.CASES)
    ]
    done = "_rates"

    def results(table):
        return {row: [50.0] for row in table.rows()} if done in table.name else {}

    monkeypatch.setattr(plan, "results", results)
    for case in cases.CASES:
        rows = case.tables[2].rows()
        assert {"none", "ours", "ours, one path"} <= rows.keys()
        assert not {"at", "kd", "ours + at", "ours + kd"} & rows.keys()
    done = ""
    for case in cases.CASES:
        rates, weights, table = case.tables
        rows = table.rows()
        assert {"none", "at", "ours", "ours + at", "ours, one path"} <= rows.keys()
        for row in rows.values():
            config = run.config_of(table, row, 0, "here")
            assert config.learning_rate == case.rates[0]
        assert rows["ours + at"].settings["plus_weight"] == case.grids["at"][0]
        for name, lengths in case.lengths.items():
            for n in lengths:
                longer = dict(rows[f"{name}, {n:g} times as long"].settings)
                budget = longer.pop(case.budget)
                assert budget / table.settings[case.budget] == pytest.approx(n, abs=0.02)
                assert longer == rows[name].settings


def test_every_line_is_the_run_that_its_row_plans(module):
    plan = module("study.plan")
    for name, table in module("study.tables").TABLES.items():
        rows = table.rows()
        for (row, seed), run in plan.read(name).items():
            assert seed in rows[row].seeds
            settings = plan.settings_of(table, rows[row], seed)
            found = {key: run["config"].get(key) for key in settings}
            assert found == settings, f"{name}, {row}"
            assert run["hybrid"] == rows[row].hybrid
            for field in ("loss_factor", "adapter_norm", "adapter_rate"):
                assert run[field] == getattr(rows[row], field)


def test_pictures(module, tmp_path):
    plots = module("study.plots")
    for name, draw in plots.PICTURES.items():
        draw(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert (ROOT / "docs" / f"{name}.png").exists()
