# compat: limit 240
"""PyTorch in several processes: data loaders, tensors shared between processes, NCCL, models side by side."""

import os
import subprocess
import sys

from compat import expect, main, need, save, skip

torch = need("torch")


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 200

    def __getitem__(self, at):
        return torch.full((32,), float(at)), at


def case_loader():
    """Workers load, a thread pins, the GPU computes."""
    loader = torch.utils.data.DataLoader(Numbers(), batch_size=16, num_workers=3, pin_memory=True, persistent_workers=True)
    for _ in range(2):
        sums = []
        for data, at in loader:
            expect(data.is_pinned(), "a batch is not pinned")
            sums.append(data.to("cuda", non_blocking=True).sum() + at.to("cuda", non_blocking=True).sum())
        save("sums", torch.stack(sums))


def consume(queue, answers):
    tensor, event = queue.get()
    event.wait()
    tensor += 5
    torch.cuda.synchronize()
    answers.put(float(tensor.sum()))
    answers.put("done")
    queue.get()


def case_shared_tensors():
    """A tensor given to a spawned process, which changes it."""
    context = torch.multiprocessing.get_context("spawn")
    queue, answers = context.Queue(), context.Queue()
    process = context.Process(target=consume, args=(queue, answers))
    process.start()
    tensor = torch.arange(1000, device="cuda", dtype=torch.float32)
    event = torch.cuda.Event(interprocess=True)
    event.record()
    queue.put((tensor, event))
    save("seen there", answers.get(timeout=120))
    answers.get(timeout=120)
    torch.cuda.synchronize()
    save("seen here", tensor)
    expect(float(tensor[0]) == 5, "it was not changed")
    queue.put("end")
    process.join(60)
    expect(process.exitcode == 0, f"the other process ended with {process.exitcode}")


def train(rank, results):
    torch.manual_seed(rank)
    model = torch.nn.Sequential(torch.nn.Linear(100, 200), torch.nn.ReLU(), torch.nn.Linear(200, 10)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(64, 100, device="cuda"), torch.randint(0, 10, (64,), device="cuda")
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    results.put((rank, losses))


def case_two_models():
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=train, args=(rank, results)) for rank in range(2)]
    for process in processes:
        process.start()
    losses = dict(results.get(timeout=180) for _ in processes)
    for process in processes:
        process.join(60)
        expect(process.exitcode == 0, f"a process ended with {process.exitcode}")
    for rank in range(2):
        save(f"model {rank}", torch.tensor(losses[rank]))


def collectives(rank, world, results):
    distributed = torch.distributed
    # A guest is not told of NVLink, and without a VM a file's memory, NCCL's other way, cannot be registered.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(29530 + world), NCCL_P2P_LEVEL="SYS")
    torch.cuda.set_device(rank)
    distributed.init_process_group("nccl", rank=rank, world_size=world, device_id=torch.device("cuda", rank))
    x = torch.arange(1000, device="cuda", dtype=torch.float32) * (rank + 1)
    distributed.all_reduce(x)
    parts = [torch.empty_like(x) for _ in range(world)]
    distributed.all_gather(parts, x + rank)
    y = torch.full((10,), float(rank), device="cuda")
    distributed.broadcast(y, 0)
    out = torch.empty(1000 // world if world > 1 else 1000, device="cuda")
    distributed.reduce_scatter_tensor(out, x[: out.numel() * world].contiguous())
    distributed.barrier()
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(20, 5).cuda(), device_ids=[rank])
    model(torch.ones(3, 20, device="cuda")).sum().backward()
    gradient = model.module.weight.grad
    torch.cuda.synchronize()
    results.put((rank, [value.cpu().numpy() for value in (x, *parts, y, out, gradient)]))
    distributed.destroy_process_group()


def run_collectives(world):
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=collectives, args=(rank, world, results)) for rank in range(world)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=200) for _ in processes)
    for process in processes:
        process.join(60)
        expect(process.exitcode == 0, f"a process ended with {process.exitcode}")
    for rank in range(world):
        save(f"rank {rank}", found[rank])


def case_nccl_one():
    run_collectives(1)


def case_nccl_two():
    if torch.cuda.device_count() < 2:
        skip("there is one GPU")
    run_collectives(2)


def with_allocator(setting, code):
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ, PYTORCH_CUDA_ALLOC_CONF=setting, PYTORCH_ALLOC_CONF=setting), timeout=120)
    expect(done.returncode == 0, f"it ended with {done.returncode}")


GROWING = """
from compat import save
import torch
torch.manual_seed(0)
kept = []
for step in range(40):
    kept.append(torch.randn(100000 + 20000 * step, device="cuda"))
    if step % 3 == 0:
        kept.pop(0)
    if step == 20:
        torch.cuda.empty_cache()
save("sums", torch.stack([one.sum() for one in kept]))
save("allocated", torch.cuda.memory_allocated())
save("backend", torch.cuda.get_allocator_backend())
try:
    torch.empty(1 << 40, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError:
    save("too much", "told")
x = torch.randn(64, 64, device="cuda")
# Once before, since a capture is no place to start cuBLAS in.
y = x @ x
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    y = x @ x
graph.replay()
save("graph", y)
"""


def case_expandable_segments():
    with_allocator("expandable_segments:True", GROWING)


def case_malloc_async():
    with_allocator("backend:cudaMallocAsync", GROWING)


def case_no_caching():
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    # Too much is another exception then, and each tensor of a capture an allocation that it forbids.
    with_allocator("", GROWING.split("try:")[0])


def case_blocking_launches():
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    with_allocator("", GROWING)


def case_visible_devices():
    """No device, and one that is named."""
    for visible, expected in (("", 0), ("0", 1), ("-1", 0), ("99", 0)):
        code = f"import torch\nassert torch.cuda.device_count() == {expected}, torch.cuda.device_count()\nassert torch.cuda.is_available() == {bool(expected)}"
        done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ, CUDA_VISIBLE_DEVICES=visible), timeout=120)
        save(f"visible {visible}", str(done.returncode))
        expect(done.returncode == 0, f"CUDA_VISIBLE_DEVICES={visible}")


if __name__ == "__main__":
    main(globals())
