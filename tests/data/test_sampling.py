from collections import Counter

import torch

from monai_passion.data.sampling import CombinationSampler, combination_items

MODALITIES = ("flair", "t1c", "t1", "t2")


def item(name, *has):
    return {"case": name, "image": {m: f"{name}_{m}" if m in has else None for m in MODALITIES}}


ITEMS = [item("a", *MODALITIES), item("b", "flair", "t1"), item("c", "t1")]


def test_an_item_stands_in_for_each_combination_of_what_it_has():
    expanded = combination_items(ITEMS, MODALITIES)
    assert Counter(i["case"] for i in expanded) == {"a": 15, "b": 3, "c": 1}
    for i in expanded:
        assert {m for m, path in i["image"].items() if path} == set(i["combination"].split("+"))
    assert ITEMS[0]["image"]["t2"] == "a_t2"


def test_every_combination_comes_once_per_cycle_and_no_item_twice_before_the_others():
    items = combination_items(ITEMS, MODALITIES)
    sampler = CombinationSampler(items, length=47)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 45
    for cycle in (drawn[:15], drawn[15:30], drawn[30:]):
        assert len({items[i]["combination"] for i in cycle}) == 15
    assert {items[i]["case"] for i in drawn if items[i]["combination"] == "t1"} == {"a", "b", "c"}


def test_the_order_is_of_torch_s_random_numbers():
    sampler = CombinationSampler(combination_items(ITEMS, MODALITIES), length=30)
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(list(sampler))
    assert orders[0] == orders[1] != orders[2]
