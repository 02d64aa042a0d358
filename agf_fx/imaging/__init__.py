"""Images in (reading, preprocessing) and pictures out (overlays, contact sheets, figures)."""
