"""The front door: requests get their priority where their text is, before vLLM reads them."""
