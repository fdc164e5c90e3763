"""Video files and folders of frames, in and out; colour; the degradations papers test with."""
