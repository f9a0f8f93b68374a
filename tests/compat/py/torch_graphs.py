# compat: limit 300
"""PyTorch's CUDA graphs, torch.compile, Triton below it."""

from compat import expect, main, need, save

torch = need("torch")
nn = torch.nn


def without_measuring():
    """Inductor measures which of several kernels is fastest, and they do not round alike. Its own setting against that
    (TORCHINDUCTOR_DETERMINISTIC) is set back when the first function has been compiled."""
    torch.use_deterministic_algorithms(True, warn_only=True)


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 64)).cuda()


def case_capture():
    net = model()
    x = torch.randn(32, 64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            net(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = net(x)
    results = []
    for at in range(10):
        x.fill_(at * 0.1)
        graph.replay()
        results.append(out.clone())
    save("out", results)
    with torch.no_grad():
        expect(torch.allclose(results[-1], net(x), atol=1e-5), "a graph computes something else")


def case_capture_training():
    net = model(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, capturable=True)
    x, y = torch.randn(32, 64, device="cuda"), torch.randn(32, 64, device="cuda")

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    losses = []
    for _ in range(30):
        graph.replay()
        losses.append(loss.clone())
    save("losses", torch.stack(losses))
    expect(losses[-1] < losses[0], "it does not learn")


def case_capture_random():
    """Random numbers in a graph go on from replay to replay."""
    torch.cuda.manual_seed(5)
    graph = torch.cuda.CUDAGraph()
    x = torch.ones(1000, device="cuda")
    with torch.cuda.graph(graph):
        out = torch.nn.functional.dropout(x, 0.5)
    seen = []
    for _ in range(5):
        graph.replay()
        seen.append(out.clone())
    expect(not torch.equal(seen[0], seen[1]), "each replay draws the same")
    save("seen", torch.stack(seen))


def case_capture_pool():
    """Two graphs with one pool; a graph of the graph's own memory."""
    net = model(2)
    x = torch.randn(16, 64, device="cuda")
    net(x)
    torch.cuda.synchronize()
    first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.no_grad():
        with torch.cuda.graph(first):
            middle = net(x)
        with torch.cuda.graph(second, pool=first.pool()):
            out = net(middle) + 1
    first.replay()
    second.replay()
    torch.cuda.synchronize()
    save("out", out)
    first.reset()
    second.reset()
    torch.cuda.empty_cache()
    save("afterwards", net(x))


def case_capture_error():
    """What cannot be captured is told, and the process goes on."""
    x = torch.ones(10, device="cuda")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            x.sum().item()
        expect(False, "no error came")
    except (RuntimeError, torch.AcceleratorError) as error:
        save("error", str(error).splitlines()[0])
    torch.cuda.synchronize()
    save("afterwards", x * 2)


def case_graphed_callables():
    net = model(3)
    x = torch.randn(32, 64, device="cuda", requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(net, (x,))
    outs = []
    for _ in range(4):
        data = torch.randn(32, 64, device="cuda", requires_grad=True)
        out = graphed(data)
        out.square().sum().backward()
        outs.append(out.detach().clone())
        save("gradient", data.grad)
    save("outs", outs)


def case_compile():
    without_measuring()
    torch.manual_seed(4)
    net = model(4)

    def work(x):
        return torch.softmax(net(x).sin() * 2 + x.cumsum(1), dim=-1)

    compiled = torch.compile(work)
    x = torch.randn(40, 64, device="cuda", requires_grad=True)
    out = compiled(x)
    out.square().sum().backward()
    save("out", out)
    save("gradient", x.grad)
    expect(torch.allclose(out, work(x), atol=1e-4), "compiled, it computes something else")


def case_compile_reduce_overhead():
    without_measuring()
    net = model(5)
    compiled = torch.compile(net, mode="reduce-overhead")
    x = torch.randn(40, 64, device="cuda")
    with torch.no_grad():
        for _ in range(5):
            torch.compiler.cudagraph_mark_step_begin()
            out = compiled(x).clone()
    save("out", out)


def case_compile_training():
    without_measuring()
    net = torch.compile(model(6))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    x, y = torch.randn(32, 64, device="cuda"), torch.randn(32, 64, device="cuda")
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    save("losses", torch.stack(losses))


def case_flex_attention():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    without_measuring()
    torch.manual_seed(7)
    q, k, v = (torch.randn(1, 2, 256, 64, device="cuda", dtype=torch.float16) for _ in range(3))
    mask = create_block_mask(lambda b, h, q, k: q >= k, 1, 2, 256, 256, device="cuda")
    save("out", torch.compile(flex_attention)(q, k, v, block_mask=mask))


if __name__ == "__main__":
    main(globals())
