"""How engines are launched and asked for tokens: each module is one `Engine`."""
