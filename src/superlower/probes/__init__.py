"""What the SDKs really do with each operator: cases with float64 references, and tables of what was found."""
