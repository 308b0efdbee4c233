"""A backend of `torch.distributed` over oneCCL: `plugin` registers it, `libraries` finds oneCCL without PyTorch."""
