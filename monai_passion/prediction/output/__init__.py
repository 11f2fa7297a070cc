"""What a prediction writes: report, preview, page, files."""
