-- Rows whose norm is furthest above the median of their layer, pooling and region.
-- param k int = 20: how many rows
-- param layer int optional: only this layer
SELECT row_id, model, site, layer, pooling, region, example_id, mode, variant, label, norm,
       round(norm / median(norm) OVER (PARTITION BY model, site, layer, pooling, region), 3)
           AS times_median
FROM activations
WHERE $layer::INTEGER IS NULL OR layer = $layer::INTEGER
ORDER BY times_median DESC, row_id
LIMIT $k::INTEGER
