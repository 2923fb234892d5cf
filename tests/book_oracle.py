"""The book's model and training (chapters 4 and 6) in plain PyTorch, as a reference for the package's loop.

This module imports nothing from the package. It does what the article describes: pad to the longest training message
with `<|endoftext|>`, classify the last position, shuffle the training batches and drop the last short one, measure
losses and accuracies over the first batches of a fresh pass, and draw everything from the global random stream.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset


class LayerNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return self.scale * centred / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) + self.shift


class MultiHeadAttention(nn.Module):
    def __init__(self, width, heads, qkv_bias):
        super().__init__()
        self.heads = heads
        self.W_query = nn.Linear(width, width, bias=qkv_bias)
        self.W_key = nn.Linear(width, width, bias=qkv_bias)
        self.W_value = nn.Linear(width, width, bias=qkv_bias)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            w(x).view(B, T, self.heads, C // self.heads).transpose(1, 2)
            for w in (self.W_query, self.W_key, self.W_value)
        )
        scores = q @ k.transpose(2, 3) / (C // self.heads) ** 0.5
        future = torch.triu(torch.ones(T, T, dtype=torch.bool), diagonal=1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        return self.out_proj((weights @ v).transpose(1, 2).reshape(B, T, C))


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.layers(x)


class TransformerBlock(nn.Module):
    def __init__(self, width, heads, qkv_bias):
        super().__init__()
        self.att = MultiHeadAttention(width, heads, qkv_bias)
        self.ff = FeedForward(width)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)

    def forward(self, x):
        x = x + self.att(self.norm1(x))
        return x + self.ff(self.norm2(x))


class GPTModel(nn.Module):
    def __init__(self, vocab_size, positions, width, layers, heads, qkv_bias=True):
        super().__init__()
        self.tok_emb = nn.Embedding(vocab_size, width)
        self.pos_emb = nn.Embedding(positions, width)
        self.trf_blocks = nn.Sequential(*[TransformerBlock(width, heads, qkv_bias) for _ in range(layers)])
        self.final_norm = LayerNorm(width)
        self.out_head = nn.Linear(width, vocab_size, bias=False)

    def forward(self, ids):
        x = self.tok_emb(ids) + self.pos_emb(torch.arange(ids.shape[1]))
        return self.out_head(self.final_norm(self.trf_blocks(x)))


def padded(token_ids, length, pad_id):
    return torch.tensor([ids[:length] + [pad_id] * (length - len(ids)) for ids in token_ids])


def make_loaders(splits, pad_id, batch_size):
    """Return the loaders of train, validation and test, given as pairs (token ids of each message, labels)."""
    length = max(len(ids) for ids in splits[0][0])
    datasets = [TensorDataset(padded(ids, length, pad_id), torch.tensor(labels)) for ids, labels in splits]
    return (
        DataLoader(datasets[0], batch_size=batch_size, shuffle=True, drop_last=True),
        DataLoader(datasets[1], batch_size=batch_size),
        DataLoader(datasets[2], batch_size=batch_size),
    )


def batch_loss(model, ids, labels):
    return cross_entropy(model(ids)[:, -1, :], labels)


@torch.no_grad()
def loader_loss(model, loader, batches):
    model.eval()
    losses = [batch_loss(model, ids, labels).item() for _, (ids, labels) in zip(range(batches), loader, strict=False)]
    return sum(losses) / len(losses)


@torch.no_grad()
def loader_accuracy(model, loader, batches=None):
    model.eval()
    correct = seen = 0
    for i, (ids, labels) in enumerate(loader):
        if batches is not None and i >= batches:
            break
        correct += (model(ids)[:, -1, :].argmax(-1) == labels).sum().item()
        seen += len(labels)
    return correct / seen


def unfreeze_last_block(model):
    for module in (model.trf_blocks[-1], model.final_norm):
        for parameter in module.parameters():
            parameter.requires_grad = True


def fine_tune(
    model,
    loaders,
    *,
    seed=123,
    epochs=5,
    learning_rate=5e-5,
    weight_decay=0.1,
    eval_freq=50,
    eval_iter=5,
    accumulation=1,
    clip=None,
    unfreeze=None,
):
    """Replace the head, freeze all but the last block, the final norm and the head, and train.

    Returns the measurements under the names of `history.json`. The article has no `accumulation`, `clip` or `unfreeze`
    (a function that gets the model with everything but its head frozen); their defaults do what the article does.
    """
    train, validation, test = loaders
    for parameter in model.parameters():
        parameter.requires_grad = False
    torch.manual_seed(seed)
    model.out_head = nn.Linear(model.tok_emb.weight.shape[1], 2)
    (unfreeze or unfreeze_last_block)(model)

    torch.manual_seed(seed)
    initial = {f"{name}_acc": loader_accuracy(model, loader, 10) for name, loader in _named(loaders)}
    initial |= {f"{name}_loss": loader_loss(model, loader, 5) for name, loader in _named(loaders)}

    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    train_losses, val_losses, train_accs, val_accs, seen, step = [], [], [], [], 0, -1
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        for i, (ids, labels) in enumerate(train, 1):
            (batch_loss(model, ids, labels) / accumulation).backward()
            seen += len(labels)
            if i % accumulation and i != len(train):
                continue
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % eval_freq == 0:
                train_losses.append(loader_loss(model, train, eval_iter))
                val_losses.append(loader_loss(model, validation, eval_iter))
                model.train()
        train_accs.append(loader_accuracy(model, train, eval_iter))
        val_accs.append(loader_accuracy(model, validation, eval_iter))
    final = {"train": train, "validation": validation, "test": test}
    return {
        "initial": initial,
        "train_losses": train_losses,
        "val_losses": val_losses,
        "train_accs": train_accs,
        "val_accs": val_accs,
        "final_accs": {name: loader_accuracy(model, loader) for name, loader in final.items()},
        "examples_seen": seen,
    }


def _named(loaders):
    return zip(("train", "val", "test"), loaders, strict=True)
