import re

from ignite.engine import Engine, Events

from monai_passion.handlers import ProgressHandler


def run(epochs, every=15.0, losses=(1.0, 3.0)):
    trainer = Engine(lambda engine, batch: {"loss": float(batch)})
    evaluator = Engine(lambda engine, batch: None)
    evaluator.add_event_handler(
        Events.COMPLETED, lambda: evaluator.state.metrics.update({"mean_dice": 0.25, "a/b": 1.0})
    )

    @trainer.on(Events.EPOCH_COMPLETED(every=2))
    def validate(engine):
        evaluator.state.max_epochs = None
        evaluator.run([0, 1], max_epochs=1)
        evaluator.state.epoch = engine.state.epoch

    ProgressHandler(evaluator, every=every).attach(trainer)
    trainer.run(losses, max_epochs=epochs)


def test_a_training_prints_one_line_an_epoch_with_loss_validation_and_time_left(capsys):
    run(3, every=0.0)
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"\d+ s", "N s", line) for line in lines] == [
        "epoch 1/3, loss 2.0000, N s, about N s left",
        "epoch 2/3, loss 2.0000, mean dice 0.2500, N s, about N s left",
        "epoch 3/3, loss 2.0000, N s",
    ]


def test_an_only_epoch_says_how_far_it_is(capsys):
    run(1, every=1e-9)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("1/2, loss 1.0000")
    assert lines[-1].startswith("loss 2.0000")


def test_the_loss_of_an_epoch_is_that_of_the_steps_that_were_done(capsys):
    run(2, every=0.0, losses=(1.0, float("nan"), 3.0))
    assert "epoch 2/2, loss 2.0000" in capsys.readouterr().err
