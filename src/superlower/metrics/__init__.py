"""How near two clips are: PSNR, SSIM, and what changes between their frames."""
