"""Operations that a CPU does faster than torch does them."""
