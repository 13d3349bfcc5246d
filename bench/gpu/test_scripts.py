"""Tests of the scripts that need no GPU and no PyTorch: python3 -m unittest"""

import argparse
import json
import tempfile
import unittest
from pathlib import Path

import read_profile
import runner
import stages
import summarize


def trace_of(passes):
    """Dense and pruned passes in turns, a millisecond each. The pruned ones wait once more."""
    lines = []
    for index in range(passes):
        start = 1_000_000 * (index + 1)
        lines += [
            f"A\t{start}\t{start + 1000}\t1\t1\tcudaLaunchKernel_v7000",
            # Two kernels at once for half of their time.
            f"K\t{start + 2000}\t{start + 202_000}\t7\t1\tgemm",
            f"K\t{start + 102_000}\t{start + 302_000}\t8\t1\tsoftmax",
        ]
        if index % 2:
            lines += [
                f"M\t{start + 310_000}\t{start + 311_000}\t7\t50\tDtoH\t64",
                f"A\t{start + 304_000}\t{start + 314_000}\t1\t60\tcudaStreamSynchronize",
                # What the runtime calls in the driver is the same wait.
                f"A\t{start + 305_000}\t{start + 313_000}\t1\t60\tcuStreamSynchronize",
            ]
        lines += [
            f"A\t{start + 320_000}\t{start + 411_000}\t1\t9\tcudaMemcpyAsync_v3020",
            f"M\t{start + 400_000}\t{start + 410_000}\t7\t9\tDtoH\t256000",
        ]
    return "\n".join([*lines, "E\t0\t0", ""])


class Profile(unittest.TestCase):
    def analyse(self, text, modes, passes):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.tsv"
            path.write_text(text)
            return read_profile.analyse(path, modes, passes)

    def test_passes_are_told_apart_and_overlaps_count_once(self):
        dense, tome = self.analyse(trace_of(12), ["dense", "tome"], 4)
        self.assertEqual((dense["mode"], tome["mode"]), ("dense", "tome"))
        self.assertEqual((dense["wall_ms"], dense["kernels"], dense["passes"]), (1.0, 2, 4))
        self.assertAlmostEqual(dense["gpu_busy_ms"], 0.310)
        self.assertAlmostEqual(dense["gpu_idle_share"], 0.690)
        self.assertEqual((dense["waits"], dense["copies_to_host"]), (1, 1))
        self.assertEqual((tome["waits"], tome["copies_to_host"]), (2, 2))
        self.assertAlmostEqual(tome["wait_ms"] - dense["wait_ms"], 0.010)
        self.assertEqual([kernel["name"] for kernel in dense["top_kernels"]], ["gemm", "softmax"])

    def test_a_trace_that_was_cut_is_read_as_far_as_it_goes(self):
        (whole,) = self.analyse(trace_of(3)[:-12], ["dense"], 20)
        self.assertEqual(whole["mode"], "whole program")
        self.assertFalse(whole["complete"])
        with self.assertRaises(ValueError):
            self.analyse("E\t0\t6\n", ["dense"], 1)


class Steps(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def runner(self, **changes):
        args = {"dry_run": False, "bundle": self.folder, "out": self.folder / "out", "state": None, "budget": 60}
        made = runner.Runner(argparse.Namespace(**args | {"again": False, "devices": None} | changes))
        self.addCleanup(made.log_file.close)
        made.stage = "what"
        made.say = made.log
        return made

    def run_shell(self, made, name, script, limit=20):
        made.step(name, limit, lambda seconds: made.execute(["sh", "-c", script], seconds, made.environment()))
        lines = (self.folder / "out/results.jsonl").read_text().splitlines()
        return {record["step"]: record for record in map(json.loads, lines)}

    def test_a_step_that_is_done_is_not_done_again(self):
        count = "echo x >> count; wc -l < count | sed 's/.*/{\"runs\": &}/'"
        for options, runs in (({}, 1), ({}, 1), ({"again": True}, 2)):
            records = self.run_shell(self.runner(**options), "one", count)
            self.assertEqual(records["one"]["rows"], [{"runs": runs}])

    def test_one_that_fails_is_told_of_and_tried_again(self):
        records = self.run_shell(self.runner(), "one", "echo text; echo why >&2; exit 3")
        self.assertEqual(records["one"]["status"], "failed")
        self.assertEqual(records["one"]["error"], "why\nexit code 3")
        self.assertEqual(self.run_shell(self.runner(), "one", "true")["one"]["status"], "ok")

    def test_what_a_program_printed_before_its_time_was_over_is_kept(self):
        slow = self.runner()
        slow.deadline = slow.stage_end = slow.begun + 5.5
        records = self.run_shell(slow, "slow", "echo '{\"done\": 1}'; sleep 60 & wait")
        self.assertEqual(records["slow"]["status"], "timeout")
        self.assertEqual(records["slow"]["rows"], [{"done": 1}])
        records = self.run_shell(slow, "late", "true")
        self.assertEqual(records["late"]["status"], "no time")

    def test_what_is_missing_is_a_word(self):
        made = self.runner()
        made.gpus, made.why_no_gpu = [], "there is none"
        made.step("bench", 20, lambda limit: made.bench("cuda", limit))
        (record,) = made.records()
        self.assertEqual((record["status"], record["why"]), ("skipped", "no NVIDIA GPU: there is none"))

    def test_an_earlier_calls_results_are_taken_over(self):
        self.run_shell(self.runner(), "One: a/b", "echo '{}'")
        other = self.runner(out=self.folder / "other")
        stages.take_over(other, self.folder / "out/results.jsonl")
        other.step("One: a/b", 20, lambda _: self.fail("it ran again"))
        self.assertEqual([record["status"] for record in other.records()], ["ok"])


class Tables(unittest.TestCase):
    def test_ratios_are_taken_turn_by_turn(self):
        place = {"model": "vit-b16", "dtype": "bf16", "batch": 64}

        def record(turn, rows, device):
            return {"stage": "infer", "step": "x", "status": "ok", "turn": turn, "device": device, "rows": rows}

        records = []
        for turn, (ours, eager) in enumerate([(90.0, 100.0), (60.0, 50.0), (110.0, 100.0)], 1):
            dense = place | {"mode": "dense", "images_per_s": ours, "speedup": 1.0, "realized": 1.0}
            records.append(record(turn, [dense], "tch:cuda"))
            peer = place | {"program": "pytorch", "variant": "eager", "images_per_s": eager}
            records.append(record(turn, [peer], "cuda"))
        cells = summarize.Cells(records)
        key = ("vit-b16", "bf16", 64)
        self.assertEqual(cells.of(key, ("tch:cuda", "dense"), ("pytorch", "eager")), 1.1)
        self.assertIn("90.0 (1.10)", summarize.dense(cells))
        self.assertIn("1.10 of eager", summarize.short(records))


if __name__ == "__main__":
    unittest.main()
