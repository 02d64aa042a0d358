"""Rules: pure functions over tensors. Called with tensors they execute; called with fx.Proxy values they emit."""
