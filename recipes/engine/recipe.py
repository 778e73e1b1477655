"""What all recipes share: a run from its flags to its results, and lists of runs."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from keras_hybrid.recipes.engine import (
    devices,
    networks,
    pictures,
    run,
    settings,
    workdir,
)
from keras_hybrid.recipes.engine.checkpoints import skipped_images
from keras_hybrid.recipes.engine.settings import Config

Results = dict[str, Any]
"""Entries for results.json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """An experiment: what is particular to its data, networks, training and evaluation.

    Attributes:
        config: Dataclass of the flags, derived from `settings.Config`.
        open_data: `open_data(config)` returns the data set: `train` and `test`, which are
            sources as described in `data.sources`, and `class_names`.
        synthetic_teacher: `synthetic_teacher(data)` returns the path of a teacher for the
            synthetic data, and trains it on first use.
        build: `build(config, data)` returns the student and the compiled model that
            trains it, which may be the same.
        training_batches: `training_batches(config, data, epochs, context)` returns the
            batches of a `range` of epochs for a `tf.distribute.InputContext`.
        evaluate: `evaluate(config, data, student, directory)` evaluates on the test
            images, draws pictures into `directory` and returns entries for results.json;
            among them `"skipped_images"`, the names of test images that it skipped.
        export: `export(config, data, student, directory)` exports to the formats of
            --export and returns entries for results.json.
        scores: `scores(results)` returns the numbers by which runs are compared, by name.
        unit: Name and unit of these numbers, for the axis of a plot.
        validation_batches: `validation_batches(config, data)` returns batches to evaluate
            on after each epoch; by default there is no such evaluation.
    """

    config: type[Config]
    open_data: Callable[[Any], Any]
    synthetic_teacher: Callable[[Any], pathlib.Path]
    build: Callable[[Any, Any], tuple[keras.Model, keras.Model]]
    training_batches: Callable[..., tf.data.Dataset]
    evaluate: Callable[[Any, Any, keras.Model, pathlib.Path], Results]
    export: Callable[[Any, Any, keras.Model, pathlib.Path], Results]
    scores: Callable[[Results], dict[str, float | None]]
    unit: str
    validation_batches: Callable[[Any, Any], tf.data.Dataset] | None = None

    def main(self, config: Config) -> Results:
        """Trains, evaluates and exports a student; see `start`."""
        return self.start(config)()

    def start(self, config: Config) -> Callable[[], Results]:
        """Does all that can fail before training, and creates no file.

        A run that was interrupted resumes from its last checkpoint. Of a finished run,
        only that is done which it lacks or which --redo names. If --method or --balance
        is a list, the first run of each method is prepared as a check.

        Args:
            config: Settings of the run.

        Returns:
            A function that trains, evaluates and exports, and returns the content of
            results.json, see `evaluate` of the recipe; of several runs, by name. Empty on
            machines other than the first. It raises FloatingPointError if the loss
            becomes infinite or NaN, and saves no student then.

        Raises:
            ValueError, TypeError, OSError: The run cannot start; the message says why.
        """
        runs = settings.runs_of(config)
        if len(runs) > 1:
            workdir.check_for_several(config)
            for one in runs.values():
                workdir.check(one)
            for first in {one.method: one for one in reversed(runs.values())}.values():
                self.start(first)
            return functools.partial(self._run_all, config, runs)
        workdir.check(config)
        results = workdir.results_of(config)
        if results is None:
            return functools.partial(self.train, config, *self.prepare(config))
        config = workdir.with_earlier_exports(config)
        parts = workdir.parts_to_do(config)
        if not parts:
            logging.info("This run has already finished, see %s", config.workdir)
            return lambda: results
        data, student = self.open_data(config), self._trained(config)
        workdir.check_classes(config, data.class_names)
        return functools.partial(self.finish, config, data, student, parts)

    def prepare(self, config: Config) -> tuple[Any, keras.Model, keras.Model]:
        """Returns (data set, compiled model, student) for `train`."""
        networks.check(config)  # before the data is read or drawn, which takes longer
        with devices.settings_of(config):
            strategy = devices.open_strategy(config.strategy)
            if not config.data_dir:
                logging.log_first_n(
                    logging.WARNING,
                    "No --data_dir: training on synthetic streets. The results mean "
                    "nothing beyond this demo.",
                    1,
                )
            data = self.open_data(config)
            run.check_batch_size(config, data.train, strategy)
            config = self._with_teacher(config, data)
            with strategy.scope():
                keras.utils.set_random_seed(config.seed)
                student, model = self.build(config, data)
        return data, model, student

    def _with_teacher(self, config, data):
        """Adds the teacher for synthetic data, unless one is given or none is needed."""
        needs_none = config.data_dir or config.method == "none"
        if needs_none or config.teacher != self.config.teacher:
            return config
        return dataclasses.replace(config, teacher=str(self.synthetic_teacher(data)))

    def train(
        self, config: Config, data: Any, model: keras.Model, student: keras.Model
    ) -> Results:
        """Fits, evaluates and exports what `prepare` returned; returns the results."""
        steps_per_epoch = len(data.train) // config.batch_size
        validation = self.validation_batches and self.validation_batches(config, data)
        writes = run.is_chief(model)
        directory = workdir.create(config) if writes else workdir.path_of(config)
        with devices.settings_of(config):
            run.fit(
                directory,
                model,
                student,
                functools.partial(self.training_batches, config, data),
                source=data.train,
                epochs=run.epochs_of(config, steps_per_epoch),
                steps_per_epoch=steps_per_epoch,
                validation_data=validation,
                hybrid_epochs=config.hybrid_epochs,
            )
        if not writes:
            return {}
        workdir.save_model(student, workdir.student_of(config))
        workdir.write_labels(directory / "labels.txt", data.class_names)
        return self.finish(config, data, self._trained(config))

    def _trained(self, config):
        """The student in the workdir."""
        with devices.settings_of(config):
            return networks.load(str(workdir.student_of(config)), "--workdir")

    def finish(
        self,
        config: Config,
        data: Any,
        student: keras.Model,
        parts: Sequence[str] = settings.REDO,
    ) -> Results:
        """Evaluates a trained student, exports it or both; returns the results."""
        directory = workdir.path_of(config)
        results = workdir.results_of(config) or {}
        with devices.settings_of(config):
            if "evaluate" in parts:
                scores = self.evaluate(config, data, student, directory)
                skipped = skipped_images(directory / "checkpoints", data.train)
                results |= {
                    "method": config.method,
                    "class_names": data.class_names,
                    "training_images": len(data.train),
                    "test_images": len(data.test),
                    "training_seconds": run.training_seconds(directory),
                    **scores,
                    "skipped_images": [*skipped, *scores["skipped_images"]],
                }
                workdir.write_evaluation(config, results)
            if "export" in parts and config.export:
                results |= self.export(config, data, student, directory)
        return workdir.write_results(config, results)

    def _run_all(self, config, runs):
        """Runs one after the other; a table and a plot of them all (paper, Fig. 9)."""
        results, errors = {}, {}
        for name, one in runs.items():
            try:
                results[name] = self.main(one)
            except FloatingPointError as error:
                logging.error("%s: %s", name, error)
                errors[name] = error
        if not all(results.values()):
            results = {}  # on a machine other than the first
        if results:
            scores = {name: self.scores(result) for name, result in results.items()}
            none = dict.fromkeys(next(iter(scores.values())))
            scores = {name: scores.get(name, none) for name in runs}
            directory = workdir.create(config)
            workdir.write_table(directory / "sweep.txt", scores)
            pictures.draw_sweep(directory / "sweep.png", scores, self.unit)
            results = workdir.write_results(config, results)
        if errors:
            raise FloatingPointError(" ".join(f"{n}: {e}" for n, e in errors.items()))
        return results
