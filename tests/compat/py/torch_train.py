# compat: limit 180
"""Models trained with PyTorch: some steps, the losses, the weights."""

from compat import DEVICE, expect, main, need, save

torch = need("torch")
nn, functional = torch.nn, torch.nn.functional


def steps(name, model, batch, count=5, optimizer=None, amp=None, scaler=None):
    """Trains `model` on what `batch` gives and saves the losses and some weights."""
    model = model.to(DEVICE)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        inputs, targets = batch()
        with torch.autocast(DEVICE, dtype=amp, enabled=amp is not None):
            out = model(inputs)
            loss = functional.cross_entropy(out.flatten(0, -2), targets.flatten())
        if scaler:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()
        losses.append(loss.detach())
    losses = torch.stack(losses)
    save(f"{name} losses", losses)
    save(f"{name} weights", next(iter(model.parameters())))
    expect(torch.isfinite(losses).all(), "a loss is not finite")
    return losses


def images(size=32, count=16):
    return lambda: (torch.randn(count, 3, size, size, device=DEVICE), torch.randint(0, 10, (count,), device=DEVICE))


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, groups=4), nn.GroupNorm(4, 32), nn.SiLU(),
        nn.MaxPool2d(2), nn.ConvTranspose2d(32, 16, 2, stride=2), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 10),
    )


class Transformer(nn.Module):
    def __init__(self, words=100, width=64):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(width, 4, 128, batch_first=True, dropout=0.1)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, words)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        return self.out(self.layers(self.embedding(x), mask=mask, is_causal=True))


def words():
    return lambda: 2 * (torch.randint(0, 100, (8, 32), device=DEVICE),)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells = kind(20, 48, num_layers=2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(96, 10)

    def forward(self, x):
        return self.out(self.cells(x)[0])


def case_convolutions():
    steps("conv", convolutions(), images())


def case_channels_last():
    model = convolutions().to(memory_format=torch.channels_last)
    steps("channels last", model, images())


def case_convolutions_deterministic():
    torch.backends.cudnn.deterministic = True
    steps("conv", convolutions(), images(48, 8), count=8)


def case_benchmark_mode():
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True
    model = convolutions().to(DEVICE)
    x = torch.randn(8, 3, 32, 32, device=DEVICE)
    for _ in range(3):
        out = model(x)
    expect(torch.isfinite(out).all(), "not finite")


def case_conv3d():
    torch.manual_seed(0)
    layer = nn.Conv3d(4, 8, 3).to(DEVICE)
    x = torch.randn(2, 4, 10, 12, 14, device=DEVICE, requires_grad=True)
    out = layer(x)
    out.square().mean().backward()
    save("out", out)
    save("gradients", [x.grad, layer.weight.grad])


def case_transformer():
    torch.manual_seed(1)
    model = Transformer().to(DEVICE)
    fused = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=DEVICE == "cuda")
    losses = steps("transformer", model, words(), optimizer=fused, count=8)
    expect(losses[-1] < losses[0], "it does not learn")


def case_amp_bfloat16():
    torch.manual_seed(2)
    steps("bf16", Transformer(), words(), amp=torch.bfloat16)


def case_amp_float16():
    torch.manual_seed(3)
    scaler = torch.amp.GradScaler(DEVICE)
    steps("fp16", convolutions(), images(), amp=torch.float16, scaler=scaler, count=6)
    save("scale", scaler.get_scale())


def case_lstm():
    torch.manual_seed(4)
    batch = lambda: (torch.randn(8, 15, 20, device=DEVICE), torch.randint(0, 10, (8, 15), device=DEVICE))
    steps("lstm", Recurrent(nn.LSTM), batch)


def case_gru():
    torch.manual_seed(5)
    batch = lambda: (torch.randn(8, 15, 20, device=DEVICE), torch.randint(0, 10, (8, 15), device=DEVICE))
    steps("gru", Recurrent(nn.GRU), batch)


def attention(backend, kind):
    torch.manual_seed(6)
    q, k, v = (torch.randn(2, 4, 128, 64, device=DEVICE, dtype=kind, requires_grad=True) for _ in range(3))
    with nn.attention.sdpa_kernel(backend):
        for causal in (False, True):
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            out.float().square().sum().backward()
            save(f"causal {causal}", [out, q.grad, k.grad, v.grad])


def case_attention_flash():
    attention(nn.attention.SDPBackend.FLASH_ATTENTION, torch.bfloat16)


def case_attention_efficient():
    attention(nn.attention.SDPBackend.EFFICIENT_ATTENTION, torch.float16)


def case_attention_math():
    attention(nn.attention.SDPBackend.MATH, torch.float32)


def case_attention_cudnn():
    attention(nn.attention.SDPBackend.CUDNN_ATTENTION, torch.bfloat16)


def case_optimizers():
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "Adamax"):
        for how in ({"foreach": True}, {"fused": True}, {"capturable": True}):
            if name == "Adagrad" and "fused" in how:
                continue  # There is none for GPUs, which it says in its first step.
            torch.manual_seed(7)
            model = nn.Sequential(nn.Linear(50, 60), nn.Tanh(), nn.Linear(60, 10)).to(DEVICE)
            try:
                optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01, **how)
            except (TypeError, RuntimeError, ValueError):
                continue
            x, y = torch.randn(20, 50, device=DEVICE), torch.randint(0, 10, (20,), device=DEVICE)
            steps(f"{name} {how}", model, lambda: (x, y), optimizer=optimizer, count=4)


def case_checkpoint():
    """Activations computed again in the backward pass; a state saved and loaded."""
    import io

    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(8)
    block = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.3), nn.Linear(256, 64)).to(DEVICE)
    x = torch.randn(32, 64, device=DEVICE, requires_grad=True)
    out = checkpoint(block, x, use_reentrant=False)
    out.sum().backward()
    save("gradient", x.grad)
    file = io.BytesIO()
    torch.save({"model": block.state_dict(), "random": torch.get_rng_state()}, file)
    file.seek(0)
    back = torch.load(file, map_location=DEVICE)
    for name, value in block.state_dict().items():
        expect(torch.equal(value, back["model"][name]), f"{name} is not what was saved")


def case_embedding_bag():
    torch.manual_seed(9)
    bag = nn.EmbeddingBag(1000, 32, mode="sum", sparse=True).to(DEVICE)
    index, offsets = torch.randint(0, 1000, (300,), device=DEVICE), torch.arange(0, 300, 10, device=DEVICE)
    out = bag(index, offsets)
    out.sum().backward()
    save("out", out)
    save("gradient", bag.weight.grad)


if __name__ == "__main__":
    main(globals())
