# compat: limit 120
"""PyTorch's tensors, random numbers, copies, streams, memory."""

import threading

from compat import DEVICE, expect, main, need, save, skip

torch = need("torch")


def case_elementwise():
    torch.manual_seed(0)
    x = torch.randn(1000, 333, device=DEVICE)
    y = torch.rand(333, device=DEVICE)
    save("sum", x + y)
    save("exp", torch.exp(x).sum(0))
    save("where", torch.where(x > 0, x, -y))
    save("sorted", torch.sort(x, dim=1))
    save("topk", torch.topk(x, 7))
    save("half", (x.half() * 2).float().mean(1))
    save("cumsum", torch.cumsum(x, 0))
    save("unique", torch.unique((x * 4).int(), return_counts=True))
    save("nonzero", (x > 2).nonzero())


def case_properties():
    p = torch.cuda.get_device_properties(0)
    for name in ("major", "minor", "multi_processor_count", "max_threads_per_multi_processor", "warp_size", "regs_per_multiprocessor",
                 "shared_memory_per_block", "shared_memory_per_block_optin", "shared_memory_per_multiprocessor", "L2_cache_size", "is_integrated", "is_multi_gpu_board"):
        if hasattr(p, name):
            save(name, getattr(p, name))
    save("capability", list(torch.cuda.get_device_capability(0)))
    save("count", torch.cuda.device_count())
    save("bf16", torch.cuda.is_bf16_supported())
    save("arch list", " ".join(torch.cuda.get_arch_list()))
    save("version", torch.version.cuda)
    free, total = torch.cuda.mem_get_info()
    expect(0 < free <= total, f"{free} of {total} bytes are free")
    expect(torch.cuda.current_device() == 0, "another device than 0")


def case_memory():
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    blocks = [torch.empty(64 << 20, dtype=torch.uint8, device="cuda") for _ in range(8)]
    expect(before - torch.cuda.mem_get_info()[0] >= 512 << 20, "what is allocated is not gone")
    save("allocated", torch.cuda.memory_allocated())
    save("reserved", torch.cuda.memory_reserved())
    save("peak", torch.cuda.max_memory_allocated())
    stats = torch.cuda.memory_stats()
    save("allocations", stats["allocation.all.allocated"])
    save("segments", stats["segment.all.current"])
    del blocks
    torch.cuda.empty_cache()
    expect(torch.cuda.mem_get_info()[0] >= before - (64 << 20), "what was freed did not come back")
    save("reserved after", torch.cuda.memory_reserved())
    try:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        expect(False, "a PiB was given")
    except torch.OutOfMemoryError:
        save("out of memory", "told")
    save("after it", torch.arange(10, device="cuda") * 2)


def case_streams():
    torch.manual_seed(1)
    a = torch.randn(512, 512, device="cuda")
    one, other = torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
    save("priority range", list(torch.cuda.Stream.priority_range()))
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    one.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(one):
        begin.record()
        b = a @ a
        end.record()
    other.wait_event(end)
    with torch.cuda.stream(other):
        c = b + 1
    torch.cuda.current_stream().wait_stream(other)
    save("c", c)
    end.synchronize()
    expect(begin.elapsed_time(end) >= 0 and end.query(), "the events are wrong")
    expect(one.query(), "the stream is not done")


def case_pinned():
    x = torch.arange(1 << 20, dtype=torch.float32).pin_memory()
    expect(x.is_pinned(), "it is not pinned")
    y = x.to("cuda", non_blocking=True)
    z = torch.empty_like(x, pin_memory=True)
    z.copy_(y * 3, non_blocking=True)
    torch.cuda.synchronize()
    save("z", z)
    expect(not torch.zeros(4).is_pinned(), "ordinary memory is pinned")


def case_threads():
    found = {}

    def work(at):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            x = torch.full((300, 300), float(at + 1), device="cuda")
            for _ in range(20):
                x = (x @ x) / x.sum(0)
            torch.cuda.synchronize()
            found[at] = x.cpu()

    threads = [threading.Thread(target=work, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    save("threads", [found[at] for at in range(8)])


def case_two_gpus():
    if torch.cuda.device_count() < 2:
        skip("there is one GPU")
    x = torch.arange(1 << 16, device="cuda:0", dtype=torch.float32)
    y = x.to("cuda:1") * 2
    save("back", y.to("cuda:0") + x)
    save("peer", torch.cuda.can_device_access_peer(0, 1))


def case_random():
    torch.manual_seed(7)
    save("rand", torch.rand(1000, device=DEVICE))
    save("randn", torch.randn(1001, device=DEVICE, dtype=torch.float64))
    save("randint", torch.randint(0, 1000, (999,), device=DEVICE))
    save("perm", torch.randperm(5000, device=DEVICE))
    save("bernoulli", torch.bernoulli(torch.full((100, 10), 0.3, device=DEVICE)))
    save("multinomial", torch.multinomial(torch.rand(10, 20, device=DEVICE), 5))
    save("dropout", torch.nn.functional.dropout(torch.ones(1000, device=DEVICE), 0.4))
    if DEVICE == "cuda":
        state = torch.cuda.get_rng_state()
        first = torch.rand(10, device=DEVICE)
        torch.cuda.set_rng_state(state)
        expect(torch.equal(first, torch.rand(10, device=DEVICE)), "the state of the random numbers is not kept")


def case_error():
    """An index that is out of bounds breaks the context, and the program is told so."""
    x = torch.zeros(10, device="cuda")
    try:
        x[torch.tensor([20], device="cuda")].sum().item()
        expect(False, "no error came")
    except RuntimeError as error:
        save("first", str(error).splitlines()[0])
    try:
        torch.zeros(3, device="cuda") + 1
        torch.cuda.synchronize()
        expect(False, "the context works")
    except RuntimeError as error:
        save("second", str(error).splitlines()[0])


def case_fork():
    """CUDA cannot be used in a process that was forked from one that uses it; PyTorch says so."""
    import multiprocessing

    torch.zeros(1, device="cuda")

    def child(pipe):
        try:
            torch.zeros(1, device="cuda")
            pipe.send("no error")
        except RuntimeError as error:
            pipe.send(str(error))

    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    save("message", ours.recv() if ours.poll(30) else "none")
    process.join(30)
    save("exit", str(process.exitcode))
    save("parent", torch.arange(5, device="cuda") + 1)


if __name__ == "__main__":
    main(globals())
