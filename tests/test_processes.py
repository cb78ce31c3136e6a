"""Work that is dealt to several processes: in order on the first one, and a message at a death."""

import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hierdiff.processes import ALONE, Processes, ProcessLost

ITEMS = list("abcdefg")


def joined(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    return Processes.joined(timedelta(seconds=60))


def deal(rank, world, folder):
    processes = joined(rank, world, folder)
    found = list(processes.deal(ITEMS, lambda item: (item.upper(), rank)))
    torch.save([found, processes.agree(lambda: f"said by {rank}")], folder / f"{rank}.pt")
    dist.destroy_process_group()


def lose_one(rank, world, folder):
    processes = joined(rank, world, folder)
    try:
        for _ in processes.deal(ITEMS, lambda item: os._exit(1) if rank and item == "d" else item):
            pass
    except ProcessLost as error:
        (folder / "message").write_text(str(error))
    os._exit(0)


def test_one_process_does_all_by_itself():
    assert list(ALONE.deal(ITEMS, str.upper)) == [(item, item.upper()) for item in ITEMS]
    assert ALONE.agree(lambda: 3) == 3 and ALONE.first
    assert Processes.joined() == ALONE


@pytest.mark.slow
def test_items_are_dealt_in_turn_and_come_back_in_order(tmp_path):
    mp.spawn(deal, args=(2, tmp_path), nprocs=2)
    found, said = torch.load(tmp_path / "0.pt", weights_only=False)
    assert found == [(item, (item.upper(), place % 2)) for place, item in enumerate(ITEMS)]
    assert torch.load(tmp_path / "1.pt", weights_only=False) == [[], "said by 0"]
    assert said == "said by 0"


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_a_message(tmp_path):
    context = mp.spawn(lose_one, args=(2, tmp_path), nprocs=2, join=False)
    for process in context.processes:
        process.join(60)
    message = (tmp_path / "message").read_text()
    assert "process 0 of 2 ends because another one has ended" in message
